//! What a failed connection means: whether a retry or another host may help, and what an administrator can do.

use std::error::Error as StdError;

use rustls::{AlertDescription, CertificateError};

use super::Failure;
use crate::{Error, sys};

/// The start of std's text for an error of getaddrinfo(3), which has no kind of its own.
const LOOKUP: &str = "failed to lookup address information";

/// A failed connection or request. The text omits addresses: those of redirects contain signatures. `is_down`: no other machine than
/// the registry's own host is at fault.
pub(super) fn connection(operation: &str, error: reqwest::Error, is_down: bool) -> Failure {
    let error = error.without_url();
    if let Some(tls) = tls(&error) {
        return Error::unavailable(operation)(words(tls)).into();
    }
    let said = host::chain(&error);
    if said.contains(LOOKUP) {
        let passing = sys::lookup_may_succeed(&said);
        return Failure::Unreachable { error: Error::unavailable(operation)(error), passing, is_down };
    }
    match (error.is_connect(), error.is_timeout()) {
        // TCP has sent its request several times within the time-out.
        (true, true) => Failure::Unreachable { error: Error::unavailable(operation)(error), passing: false, is_down },
        (true, false) => Failure::Unreachable { error: Error::unavailable(operation)(error), passing: true, is_down },
        (false, _) => Failure::Transient(Error::unavailable(operation)(error), None),
    }
}

/// The TLS error among the causes. An I/O error that wraps one hides it from its own list of causes.
fn tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    wrapped.and_then(|inner| tls(inner)).or_else(|| error.source().and_then(tls))
}

/// What is wrong, and the cure.
fn words(error: &rustls::Error) -> String {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
    match error {
        // webpki says Other(CaUsedAsEndEntity) of a self-signed certificate that is not trusted.
        InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_)) => {
            "its certificate was issued by itself or by an authority that this node does not know: name the issuer's \
             certificate as `ca` in the registry's hosts.toml, or put it as a .crt file into that directory"
                .to_owned()
        }
        InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            format!("its certificate has expired, or this node's clock is wrong: {error}")
        }
        InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            format!("its certificate is not valid yet, or this node's clock is wrong: {error}")
        }
        InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            format!(
                "its certificate is for another name (only subjectAltName counts, the common name does not): {error}"
            )
        }
        InvalidCertificate(_) => format!("its certificate cannot be accepted: {error}"),
        InvalidMessage(_) => {
            format!(
                "it does not speak TLS ({error}): if it serves plain HTTP, write http:// in the registry's hosts.toml"
            )
        }
        AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::HandshakeFailure
            | AlertDescription::AccessDenied,
        ) => format!(
            "it refuses this node's client certificate, or the lack of one ({error}): name certificate and key as `client` \
             in the registry's hosts.toml"
        ),
        _ => format!("TLS failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

    use super::{tls, words};

    #[test]
    fn a_tls_error_is_found_wherever_it_is_and_tells_the_cure() {
        for (error, cure) in [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "`ca` in the registry's hosts.toml"),
            (Error::InvalidCertificate(CertificateError::Expired), "clock"),
            (Error::InvalidCertificate(CertificateError::NotValidForName), "subjectAltName"),
            (Error::InvalidCertificate(CertificateError::BadSignature), "cannot be accepted"),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "http://"),
            (Error::AlertReceived(AlertDescription::CertificateRequired), "`client`"),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), "TLS failed"),
        ] {
            let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
            let said = words(tls(&wrapped).unwrap());
            assert!(said.contains(cure), "{said}");
        }
        assert!(tls(&io::Error::other("no TLS")).is_none());
    }
}
