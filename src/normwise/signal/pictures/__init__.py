"""Pictures of traces, drawn as shapes and written as SVG, PNG and HTML without a browser."""
