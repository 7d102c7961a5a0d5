//! PullImage: pulls an image, at most until the client's deadline. Credentials are never logged.

use std::sync::Arc;

use image::Credentials;
use proto::v1::{AuthConfig, PullImageRequest, PullImageResponse};
use tonic::Request;
use tracing::info;

use super::extensions::{Deadline, deadline};
use crate::error::Error;
use crate::state::node::Node;

pub(crate) async fn call(node: &Arc<Node>, request: Request<PullImageRequest>) -> Result<PullImageResponse, Error> {
    let Deadline(deadline) = deadline(&request);
    let request = request.into_inner();
    let reference = request.image.map(|image| image.image).unwrap_or_default();
    if reference.is_empty() {
        return Err(Error::missing("image.image"));
    }
    let credentials = request.auth.map(credentials).transpose()?.flatten();
    let pull = node.images.pull(&reference, credentials);
    let pulled = match deadline {
        // Dropped at its deadline, a pull leaves nothing behind.
        Some(deadline) => tokio::time::timeout_at(deadline.into(), pull)
            .await
            .map_err(|_| Error::Deadline { what: format!("failed to pull image {reference:?}") })?,
        None => pull.await,
    };
    let image = pulled.map_err(|error| match error {
        error @ image::Error::Unavailable { .. } if !host::is_exhausted(&error) => Error::RegistryUnavailable(error),
        error => error.into(),
    })?;
    info!(id = %image.id, "pulled {reference}");
    Ok(PullImageResponse { image_ref: image.id })
}

/// None if all fields are empty: kubelet sends that without credentials.
fn credentials(auth: AuthConfig) -> Result<Option<Credentials>, Error> {
    if auth == AuthConfig::default() {
        return Ok(None);
    }
    let mut credentials = Credentials {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
        server_address: auth.server_address,
    };
    if !auth.auth.is_empty() {
        (credentials.username, credentials.password) = decode(&auth.auth)?;
    }
    Ok(Some(credentials))
}

/// Decodes `user:password` in base64, the form of docker's configuration.
fn decode(auth: &str) -> Result<(String, String), Error> {
    use base64::Engine;
    // The value is a secret, so the error does not show it.
    let invalid =
        || Error::Invalid { field: "auth.auth".to_owned(), reason: "is not user:password in base64".to_owned() };
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth).map_err(|_| invalid())?;
    let text = String::from_utf8(bytes).map_err(|_| invalid())?;
    let (user, password) = text.split_once(':').ok_or_else(invalid)?;
    Ok((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}
