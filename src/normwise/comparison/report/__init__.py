"""The report of a comparison: one HTML file that works offline. `page.write_report` writes it; it needs plotly."""
