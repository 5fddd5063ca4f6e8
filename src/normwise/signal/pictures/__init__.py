"""Pictures of traces: drawn once as shapes, written as SVG, PNG and HTML without a browser."""
