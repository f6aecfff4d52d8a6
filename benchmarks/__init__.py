"""What the package is measured by; see README.md in this folder."""
