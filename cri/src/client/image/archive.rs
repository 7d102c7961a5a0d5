//! `cellblock image import` and `export`: archives to the server and from it.

use std::io::Write;
use std::path::Path;

use proto::admin::{ExportImagesRequest, ImportImagesRequest};
use serde_json::json;

use super::super::{answer, connect_admin, transfer};
use super::show;
use crate::client::outcome::Outcome;

/// Sends an archive.
pub(super) async fn import(state: &Path, file: &Path, name: Option<&str>, quiet: bool) -> anyhow::Result<Outcome> {
    let mut client = connect_admin(state).await?;
    let first = ImportImagesRequest { name: name.unwrap_or_default().to_owned(), chunk: Vec::new() };
    let message = |chunk| ImportImagesRequest { name: String::new(), chunk };
    let call = async |messages| client.import_images(messages).await;
    let images = transfer::send(file, quiet, (first, message), call).await?.images;
    let images_json: Vec<_> = images.iter().map(show::admin_json).collect();
    Ok(Outcome { text: show::names(&images), json: json!({ "images": images_json }) })
}

/// Receives an archive, into a file, or to `out`, to which nothing else is written then.
pub(super) async fn export(
    state: &Path,
    images: &[String],
    output: &Path,
    out: &mut impl Write,
) -> anyhow::Result<Option<Outcome>> {
    let request = ExportImagesRequest { images: images.to_vec() };
    let call = async { answer(connect_admin(state).await?.export_images(request).await) };
    transfer::receive(call, |message| message.chunk, output, out).await
}
