"""What ztunnel shows of itself: the state dump, log levels, readiness, metrics."""
