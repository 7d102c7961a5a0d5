//! A CRI message inside a record, in base64 of protobuf's wire format, which stays readable when CRI grows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Wire<M>(pub(crate) M);

impl<M> std::ops::Deref for Wire<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M: prost::Message> Serialize for Wire<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0.encode_to_vec()))
    }
}

impl<'de, M: prost::Message + Default> Deserialize<'de> for Wire<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        M::decode(bytes.as_slice()).map(Self).map_err(D::Error::custom)
    }
}
