"""Data sets that this package prepares itself: the module `foo` holds one TFDS builder, `Foo`."""
