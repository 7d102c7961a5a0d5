//! Answers questions: from the zones of the pods, or by asking the node's resolvers.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{MessageType, ResponseCode};
use hickory_server::server::{Request, RequestHandler};
use hickory_server::zone_handler::Catalog;

use crate::reply::Reply;
use crate::resolvers::forward;
use crate::slots::Slots;
use crate::zones::Origins;
use crate::{Settings, Told};

/// Questions that wait for a resolver at once: each has a socket or two.
const WAITING: usize = 512;
/// The share of one pod.
const WAITING_EACH: usize = 64;

/// What the name server knows.
pub(crate) struct Answers {
    settings: Settings,
    origins: Origins,
    told: RwLock<Told>,
    own: RwLock<Arc<Catalog>>,
    others: RwLock<Arc<Catalog>>,
    waiting: Arc<Slots>,
}

impl Answers {
    /// Knows nothing yet.
    pub(crate) fn new(settings: Settings) -> Result<Self, String> {
        let origins = Origins::of(&settings).map_err(|error| error.to_string())?;
        Ok(Self {
            settings,
            origins,
            told: RwLock::default(),
            own: RwLock::default(),
            others: RwLock::default(),
            waiting: Slots::new(WAITING, WAITING_EACH),
        })
    }

    /// Takes what the server tells. After an error the former answers stay. Inside a runtime.
    pub(crate) fn learn(&self, told: Told) -> Result<(), String> {
        let own = self.origins.with(&self.settings.addresses, &told).map_err(|error| error.to_string())?;
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(own);
        let mut before = self.told.write().unwrap_or_else(PoisonError::into_inner);
        // Resolvers that stay keep what they remember.
        if before.resolvers != told.resolvers {
            let others = Arc::new(forward(&told.resolvers)?);
            *self.others.write().unwrap_or_else(PoisonError::into_inner) = others;
        }
        *before = told;
        Ok(())
    }

    /// The answer to a message; None: it deserves none, since it is no question.
    pub(crate) async fn to(&self, message: Vec<u8>, from: SocketAddr, protocol: Protocol) -> Option<Vec<u8>> {
        let request = Request::from_bytes(message, from, protocol).ok()?;
        if request.metadata.message_type == MessageType::Response {
            return None;
        }
        let mut reply = Reply::by(protocol);
        let is_own = request.queries.queries().first().is_some_and(|query| self.origins.have(query.name()));
        if !self.settings.networks.iter().any(|network| network.contains(from.ip())) {
            reply.refuse(&request, ResponseCode::Refused).await;
        } else if is_own {
            ask(&self.own, &request, &reply).await;
        } else if let Some(_slot) = self.waiting.take(from.ip()) {
            ask(&self.others, &request, &reply).await;
        } else {
            reply.refuse(&request, ResponseCode::ServFail).await;
        }
        reply.take()
    }
}

async fn ask(catalog: &RwLock<Arc<Catalog>>, request: &Request, reply: &Reply) {
    let catalog = Arc::clone(&catalog.read().unwrap_or_else(PoisonError::into_inner));
    catalog.handle_request::<_, TokioTime>(request, reply.clone()).await;
}
