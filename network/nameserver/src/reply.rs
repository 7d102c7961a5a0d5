//! An answer as the bytes that go back to the one who asked.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hickory_server::net::NetError;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::Record;
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder};

/// What every client takes by UDP (RFC 1035, 4.2.1), in bytes.
const DATAGRAM: u16 = 512;
/// The most that is sent by UDP, in bytes, whatever the client takes: no network on the way splits it (RFC 9715).
const LARGEST_DATAGRAM: u16 = 1232;

/// The answer to one question, once there is one. What does not fit a datagram is cut, and the client asks again by TCP.
#[derive(Clone)]
pub(crate) struct Reply {
    protocol: Protocol,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Reply {
    pub(crate) fn by(protocol: Protocol) -> Self {
        Self { protocol, bytes: Arc::default() }
    }

    /// The bytes; None: nothing was answered.
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut *bytes)).filter(|bytes| !bytes.is_empty())
    }

    /// Answers with an error.
    pub(crate) async fn refuse(&mut self, request: &Request, code: ResponseCode) {
        let error = MessageResponseBuilder::from_message_request(request).error_msg(&request.metadata, code);
        // It fails only if a header does not fit.
        let _ = self.send_response(error).await;
    }
}

#[async_trait]
impl ResponseHandler for Reply {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let most = match self.protocol {
            Protocol::Udp => {
                response.edns().map_or(DATAGRAM, |edns| edns.max_payload().clamp(DATAGRAM, LARGEST_DATAGRAM))
            }
            _ => u16::MAX,
        };
        let mut bytes = Vec::with_capacity(usize::from(DATAGRAM));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(most);
        let info = response.destructive_emit(&mut encoder)?;
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        Ok(info)
    }
}
