"""The update: losses per task, surgery, optimizer steps, and what is measured of them."""
