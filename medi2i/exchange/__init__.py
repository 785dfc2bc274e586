"""Models on their way in and out: as MONAI bundles, for Hugging Face, from archives and addresses.

Nothing that comes in is ever run: archives are read by a short list of names, weights as tensors.
"""
