"""How fast is a layer? Every layer against torch's and the papers' equations, checked before it is timed."""
