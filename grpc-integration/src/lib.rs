//! hither-tonic
