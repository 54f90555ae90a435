"""Public data sets, as they are downloaded, into our schema: one small function a set."""
