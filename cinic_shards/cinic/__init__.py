"""CINIC-10 itself: fetch it, build it from its sources, restore CIFAR-10 from it."""
