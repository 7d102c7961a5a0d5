//! An import: reads an archive into the content store, and then pulls its images from there, through every check of a pull. All
//! images of the archive get their records at once, or none does.

use std::io::Read;
use std::sync::Arc;

use super::intake;
use super::layout;
use crate::document::Blob;
use crate::images::{Image, Shared};
use crate::locks::hold;
use crate::pull::{Work, blocking, fetch_image};
use crate::registry::Source;
use crate::unsettled::Names;
use crate::{Error, Observer, Reference};

/// The reference in the errors of an archive that has not been read yet.
const UNREAD: &str = "archive";

/// Imports the images of an archive. Dropping the future cancels the import once the archive ends or cannot be read further.
pub(crate) async fn import(
    shared: &Arc<Shared>,
    archive: impl Read + Send + 'static,
    name: Option<String>,
) -> Result<Vec<Image>, Error> {
    name.as_deref().map(Reference::parse).transpose()?;
    let source = Source::of_archive(&Reference::parse(UNREAD)?);
    let work = Work::new(shared, source, Observer::default());
    let reader = Arc::clone(&work);
    let named = blocking(move || {
        let contents = intake::read(&reader, archive)?;
        let named = layout::images(&contents, name.as_deref(), &reader.shared.platforms)?;
        for image in &named {
            let Some(manifest) = &image.manifest else { continue };
            reader.note(Names { blobs: vec![image.document.clone()], chains: Vec::new() })?;
            let _lock = reader.shared.locks.blocking_lock(image.document.as_str());
            reader.shared.blobs.put(&Blob::new(image.document.clone(), manifest.len() as u64), manifest)?;
        }
        Ok(named)
    })
    .await?;
    // Only now: a client that sends slowly keeps no pull waiting.
    let _slot = shared.pulls.acquire().await.expect("the semaphore is never closed");
    let mut records = Vec::new();
    for image in named {
        let (record, document) = fetch_image(&work, &image.reference.at(&image.document)).await?;
        records.push((record, image.reference, document));
    }
    let keeper = Arc::clone(&work);
    let records = blocking(move || hold(&keeper.shared.records).add_all(records)).await?;
    Ok(records.iter().map(Image::from).collect())
}
