"""The embedded tasks: small pictures whose questions a model of a million parameters can learn to answer."""
