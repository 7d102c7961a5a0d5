//! The Kubernetes CRI v1 API, complete for Kubernetes 1.38 (beta), and `cellblock.admin.v1`, with the types, clients and servers that
//! are generated from them; no logic.
//!
//! `cri.proto` is the source, compiled by the build script; `cri-v1.38.txt` is the table of the wire interface that the tests
//! hold it against. Only this crate, `cri` and `e2e` know these types.

/// Package `runtime.v1`: the messages, `runtime_service_{client,server}` and `image_service_{client,server}`.
#[allow(missing_docs, unreachable_pub, deprecated, clippy::all, clippy::too_many_lines)] // generated, and documented by its source
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// Package `cellblock.admin.v1`: the verbs that CRI has not; the messages and `admin_{client,server}`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)] // generated, and documented by its source
pub mod admin {
    tonic::include_proto!("cellblock.admin.v1");
}

/// The descriptors of `cri.proto` as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.bin"));

/// Bytes as Go writes them into JSON.
fn base64<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    use base64::Engine;
    serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
}
