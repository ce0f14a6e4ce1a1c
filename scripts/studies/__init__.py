"""Small studies without Meta-World."""
