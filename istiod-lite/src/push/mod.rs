//! Changed keys become resources in the cache that the xDS server serves.
