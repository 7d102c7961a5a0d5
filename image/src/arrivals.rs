//! The blobs of a pull on their way to the thread that unpacks them, in the order of the layers.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::Error;
use crate::flow::Flow;
use crate::locks::hold;

/// Where the layers of a job come from, and who is told of each that is unpacked.
pub(crate) struct Arrivals {
    layers: Mutex<Vec<Arrival>>,
    told: Told,
}

/// Is told the number of a layer.
type Told = Box<dyn Fn(usize) + Send + Sync>;

/// Brings the flow of a blob when its download begins; None: it is stored.
pub(crate) type Beginning = oneshot::Receiver<Option<Arc<Flow>>>;

#[derive(Debug)]
enum Arrival {
    /// Its download has not begun yet.
    Waiting(Beginning),
    /// It arrives; None: it is stored.
    Known(Option<Arc<Flow>>),
    /// It will not come.
    Lost,
}

impl Arrivals {
    /// Layers that are stored.
    pub(crate) fn stored(count: usize) -> Self {
        let layers = (0..count).map(|_| Arrival::Known(None)).collect();
        Self { layers: Mutex::new(layers), told: Box::new(|_| ()) }
    }

    /// Layers whose downloads begin in this order. Waits for the first one; None: it will not come.
    pub(crate) async fn of(begun: Vec<Beginning>, told: Told) -> Option<Self> {
        let mut begun = begun.into_iter();
        let mut layers = Vec::new();
        if let Some(first) = begun.next() {
            layers.push(Arrival::Known(first.await.ok()?));
        }
        layers.extend(begun.map(Arrival::Waiting));
        Some(Self { layers: Mutex::new(layers), told })
    }

    /// The flow of a layer, once its download has begun; None: it is stored. Blocking.
    pub(crate) fn flow(&self, at: usize) -> Result<Option<Arc<Flow>>, Error> {
        let arrival = &mut hold(&self.layers)[at];
        *arrival = match std::mem::replace(arrival, Arrival::Lost) {
            Arrival::Waiting(begun) => begun.blocking_recv().map_or(Arrival::Lost, Arrival::Known),
            known => known,
        };
        match arrival {
            Arrival::Known(flow) => Ok(flow.clone()),
            _ => Err(Self::ended()),
        }
    }

    /// Tells of a layer that is unpacked.
    pub(crate) fn unpacked(&self, at: usize) {
        (self.told)(at);
    }

    /// The error of an unpacking whose layer does not come.
    pub(crate) fn ended() -> Error {
        Error::unavailable("cannot unpack a layer")("its download ended")
    }

    /// Whether a download failed: its error says more than that of an unpacking without its bytes.
    pub(crate) fn have_failed(&self) -> bool {
        hold(&self.layers).iter().any(|arrival| match arrival {
            Arrival::Known(Some(flow)) => flow.now().ended == Some(false),
            Arrival::Lost => true,
            _ => false,
        })
    }
}
