"""A page about images of your own: `python -m spmix_aug.look FOLDER`; needs the extra `viz`."""
