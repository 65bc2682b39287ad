//! hither-examples
