//! Compiles `cri.proto` with protox, which needs no protoc on the machine, and keeps the descriptors for the tests and for
//! whoever wants to look into messages by name.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=cri.proto");
    let files = protox::compile(["cri.proto"], ["."])?;
    let descriptors = PathBuf::from(std::env::var("OUT_DIR")?).join("cri.bin");
    std::fs::write(descriptors, files.encode_to_vec())?;
    // Maps are ordered, so that equal messages encode to equal bytes and lists print the same way twice.
    tonic_prost_build::configure().build_transport(false).btree_map(".").compile_fds(files)?;
    Ok(())
}
