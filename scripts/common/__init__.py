"""What every command needs: errors that end in one line, the screen, flags."""
