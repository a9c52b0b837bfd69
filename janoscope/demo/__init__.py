"""The bundled models and their training, beside the flow: it reads nothing of janoscope and gives pipelines to look at.

`models/image`, `models/video` and `models/latte` are diffusers model directories, each with a `janoscope.toml` (default call and
policy) and the README of its training. `scenes` and `clips` draw the data, `recipes` say what is learned from it, `train` learns,
`export` writes the directory. Loading a model needs `import janoscope` first, where diffusers finds the VAE classes.
"""
