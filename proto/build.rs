//! Compiles `cri.proto` and `admin.proto` with protox, which needs no protoc on the machine, and keeps CRI's descriptors for the
//! tests and for whoever wants to look into messages by name.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=cri.proto");
    println!("cargo:rerun-if-changed=admin.proto");
    let cri = protox::compile(["cri.proto"], ["."])?;
    let admin = protox::compile(["admin.proto"], ["."])?;
    let descriptors = PathBuf::from(std::env::var("OUT_DIR")?).join("cri.bin");
    std::fs::write(descriptors, cri.encode_to_vec())?;
    for files in [cri, admin] {
        // Maps are ordered, so that equal messages encode to equal bytes and lists print the same way twice.
        // Requests are shown back to clients as JSON, as Go's encoding/json writes them: bytes in base64.
        tonic_prost_build::configure()
            .build_transport(false)
            .btree_map(".")
            .type_attribute(".", "#[derive(serde::Serialize)]")
            .field_attribute("runtime.v1.KeyValue.value", "#[serde(serialize_with = \"crate::base64\")]")
            .compile_fds(files)?;
    }
    Ok(())
}
