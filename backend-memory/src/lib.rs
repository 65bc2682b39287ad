//! hither-memory
