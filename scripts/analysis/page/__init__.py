"""The page that `scripts.report` writes: one file of HTML with figures by Plotly, which needs nothing besides."""
