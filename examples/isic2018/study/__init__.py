"""What mixing does for the tail on real lesions: the study."""
