//! The zones of the pods: their domain, and the reverse zones of their networks. Each list of records makes them anew, which takes
//! milliseconds for a thousand pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::ProtoError;
use hickory_server::proto::rr::rdata::{NS, PTR, SOA};
use hickory_server::proto::rr::{LowerName, Name, RData, Record as DnsRecord};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use ipnetwork::IpNetwork;

use crate::{Settings, Told};

/// How long an answer may be remembered, in seconds: a pod that is replaced has another address.
const TTL: u32 = 5;
/// How long it may be remembered that a name is missing, in seconds: the pod may be about to start.
const MISSING_TTL: u32 = 1;
/// What secondaries would wait for, in seconds; there are none.
const REFRESH: i32 = 3600;

/// The names of the zones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origins {
    domain: Name,
    reverse: Vec<Name>,
}

impl Origins {
    pub(crate) fn of(settings: &Settings) -> Result<Self, ProtoError> {
        let mut domain = Name::from_ascii(&settings.domain)?.to_lowercase();
        domain.set_fqdn(true);
        // Once each: networks may overlap where pods have addresses of former ones.
        let reverse: BTreeSet<Name> = settings.networks.iter().flat_map(reverse).collect();
        Ok(Self { domain, reverse: reverse.into_iter().collect() })
    }

    /// Whether a name is in one of the zones.
    pub(crate) fn have(&self, name: &LowerName) -> bool {
        self.all().any(|origin| origin.zone_of(name))
    }

    fn all(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.domain).chain(&self.reverse)
    }

    /// The zones with these records; the domain itself has the name server's addresses.
    pub(crate) fn with(&self, addresses: &[IpAddr], told: &Told) -> Result<Catalog, ProtoError> {
        let mut zones: Vec<Zone> = self.all().map(|origin| Zone::new(origin, &self.domain)).collect();
        for address in addresses {
            zones[0].put(self.domain.clone(), data(*address));
        }
        for record in &told.records {
            let name = Name::from_ascii(&record.name)?.append_domain(&self.domain)?;
            for address in &record.addresses {
                zones[0].put(name.clone(), data(*address));
                let back = Name::from(*address);
                // The zone that is asked for it is the innermost.
                let around = self.reverse.iter().enumerate().filter(|(_, origin)| origin.zone_of(&back));
                if let Some((at, _)) = around.max_by_key(|(_, origin)| origin.num_labels()) {
                    zones[at + 1].put(back, RData::PTR(PTR(name.clone())));
                }
            }
        }
        let mut catalog = Catalog::new();
        for (origin, zone) in self.all().zip(zones) {
            catalog.upsert(origin.into(), vec![Arc::new(zone.0)]);
        }
        Ok(catalog)
    }
}

struct Zone(InMemoryZoneHandler<TokioRuntimeProvider>);

impl Zone {
    fn new(origin: &Name, server: &Name) -> Self {
        let mut zone = Self(InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny));
        let nobody = Name::from_labels(["nobody", "invalid"]).expect("these are labels");
        let minimum = MISSING_TTL;
        let soa = SOA::new(server.clone(), nobody, 1, REFRESH, REFRESH, REFRESH, minimum);
        zone.0.upsert_mut(DnsRecord::from_rdata(origin.clone(), MISSING_TTL, RData::SOA(soa)), 1);
        zone.put(origin.clone(), RData::NS(NS(server.clone())));
        zone
    }

    fn put(&mut self, name: Name, data: RData) {
        self.0.upsert_mut(DnsRecord::from_rdata(name, TTL, data), 1);
    }
}

fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    }
}

/// The names of the reverse zones that hold a network and nothing else: a label is a byte of an IPv4 address or half a byte of an
/// IPv6 one, so that a network of another length has up to 128 or 8.
fn reverse(network: &IpNetwork) -> Vec<Name> {
    let (bits, step) = if network.is_ipv4() { (32, 8) } else { (128, 4) };
    let labels = u32::from(network.prefix()).div_ceil(step);
    let (zones, size) = (1u128 << (labels * step - u32::from(network.prefix())), bits - labels * step);
    let at = |number: u128| -> Name {
        let offset = number << size;
        match network.network() {
            IpAddr::V4(address) => {
                Name::from(IpAddr::V4((u32::from(address) + u32::try_from(offset).unwrap_or(0)).into()))
            }
            IpAddr::V6(address) => Name::from(IpAddr::V6((u128::from(address) + offset).into())),
        }
    };
    // in-addr.arpa or ip6.arpa above them.
    (0..zones).map(|number| at(number).trim_to(labels as usize + 2)).collect()
}

#[cfg(test)]
mod tests {
    use super::reverse;

    fn names(network: &str) -> Vec<String> {
        reverse(&network.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_reverse_zones_hold_the_network_and_nothing_else() {
        assert_eq!(names("10.88.0.0/16"), ["88.10.in-addr.arpa."]);
        assert_eq!(names("10.88.3.7/24"), ["3.88.10.in-addr.arpa."]);
        assert_eq!(names("10.88.2.0/23"), ["2.88.10.in-addr.arpa.", "3.88.10.in-addr.arpa."]);
        assert_eq!(names("10.0.0.0/9").len(), 128);
        assert_eq!(names("10.88.3.4/30"), ["4", "5", "6", "7"].map(|last| format!("{last}.3.88.10.in-addr.arpa.")));
        assert_eq!(names("fd00:cb::/32"), ["b.c.0.0.0.0.d.f.ip6.arpa."]);
        assert_eq!(
            names("fd00:cb:0:8000::/50"),
            ["8", "9", "a", "b"].map(|first| format!("{first}.0.0.0.0.b.c.0.0.0.0.d.f.ip6.arpa."))
        );
    }
}
