"""What a CUDA device needs: captured graphs, transfers, freed memory."""
