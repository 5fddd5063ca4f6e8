"""How fast is it? Every layer against torch's and against the papers' equations, checked before it is timed."""
