//! Compiles the protos in pure Rust, so that the quickstart needs no `protoc`.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=tests/interop/proto");
    let descriptors = protox::compile(["discover.proto"], ["proto"])?;
    // For gRPC reflection.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("discover.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    // For the tests alone.
    let testing = protox::compile(["testing.proto"], ["tests/interop/proto"])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(testing)?;
    Ok(())
}
