//! `cellblock image`: the images of the node.

mod archive;
mod pull;
mod show;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use proto::admin::PruneImagesRequest;
use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::{Image, ImageSpec, ImageStatusRequest, ImageStatusResponse, RemoveImageRequest, StreamImagesRequest};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::outcome::Outcome;
use super::{answer, block_on, connect, connect_admin, parts, table};
use crate::config::Config;
use crate::rpc::MESSAGE_LIMIT;

/// What is done with images.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the images.
    #[command(alias = "list")]
    Ls,
    /// Pull an image, with the progress of each layer.
    Pull(PullArgs),
    /// Show an image: its names, its platform, its defaults for containers, its layers.
    Inspect {
        /// A name, an id, or the beginning of one.
        image: String,
    },
    /// Remove images with all their names; containers keep their roots.
    #[command(alias = "remove")]
    Rm {
        /// Names, ids, or the beginnings of ids.
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove the images that no container uses and that the configuration does not pin.
    Prune {
        /// Remove nothing, say what would go.
        #[arg(long)]
        dry_run: bool,
    },
    /// Import the images of an archive: an OCI image layout or what `docker save` writes, tar or tar.gz.
    Import {
        /// The archive; -: the standard input.
        file: PathBuf,
        /// A name for the only image of the archive, instead of its own.
        #[arg(long)]
        name: Option<String>,
    },
    /// Export images as one archive that `import`, docker, podman, skopeo and containerd read.
    Export {
        /// Names, or ids for all names of an image.
        #[arg(required = true)]
        images: Vec<String>,
        /// The archive; -: the standard output.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
}

/// What a pull needs.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// A name: `quay.io/team/tool:1`.
    image: String,
    /// The user for the registry.
    #[arg(long, requires = "password_stdin")]
    username: Option<String>,
    /// Read the user's password from the standard input.
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

/// Does it, and writes the result to `out`: as text, or as one JSON document.
///
/// # Errors
/// No server answers, the server's refusal, or a file.
pub fn run(command: &Command, json: bool, config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    block_on(async {
        let result = match command {
            Command::Ls => list(config).await?,
            Command::Pull(args) => {
                let PullArgs { image, username, .. } = args;
                pull::pull(&config.state, image, username.as_deref(), json).await?
            }
            Command::Inspect { image } => inspect(config, image).await?,
            Command::Rm { images } => return remove(config, images, json, out).await,
            Command::Prune { dry_run } => prune(&config.state, *dry_run).await?,
            Command::Import { file, name } => archive::import(&config.state, file, name.as_deref(), json).await?,
            Command::Export { images, output } => match archive::export(&config.state, images, output, out).await? {
                Some(outcome) => outcome,
                None => return Ok(()),
            },
        };
        result.write(json, out)
    })
}

async fn connect_cri(config: &Config) -> anyhow::Result<ImageServiceClient<Channel>> {
    Ok(ImageServiceClient::new(connect(&config.socket()?).await?).max_decoding_message_size(MESSAGE_LIMIT))
}

async fn list(config: &Config) -> anyhow::Result<Outcome> {
    let listed = parts(connect_cri(config).await?.stream_images(StreamImagesRequest::default()).await).await?;
    let images: Vec<Image> = listed.into_iter().flat_map(|part| part.images).collect();
    let json = json!({ "images": images.iter().map(show::cri_json).collect::<Vec<_>>() });
    Ok(Outcome { text: show::table(&images), json })
}

async fn status(client: &mut ImageServiceClient<Channel>, name: &str) -> anyhow::Result<ImageStatusResponse> {
    let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    answer(client.image_status(ImageStatusRequest { image, verbose: true }).await)
}

async fn inspect(config: &Config, name: &str) -> anyhow::Result<Outcome> {
    let found = status(&mut connect_cri(config).await?, name).await?;
    let Some(image) = found.image else { bail!("image {name:?} not found") };
    let info: Value = serde_json::from_str(found.info.get("info").map_or("{}", String::as_str))
        .context("the server's answer is not JSON")?;
    Ok(show::inspect(&image, &info))
}

/// Removes each image once, however many of its names are given. A name that fails does not keep the other images: as `rm` and
/// `docker rmi` do, this removes what it can and then fails with what it could not.
async fn remove(config: &Config, names: &[String], json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let mut client = connect_cri(config).await?;
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    let mut found: Vec<Image> = Vec::new();
    // All names before the first removal, which takes the other names of its image away.
    for name in names {
        match find(&mut client, name).await {
            Ok(image) if found.iter().any(|other| other.id == image.id) => {}
            Ok(image) => found.push(image),
            Err(error) => failed.push(host::chain(error.as_ref())),
        }
    }
    for image in found {
        let spec = Some(ImageSpec { image: image.id.clone(), ..ImageSpec::default() });
        match answer(client.remove_image(RemoveImageRequest { image: spec }).await) {
            Ok(_) => removed.push(image),
            Err(error) => failed.push(host::chain(error.as_ref())),
        }
    }
    let text = removed.iter().map(|image| format!("{}\n", image.id)).collect();
    let document = json!({ "removed": removed.iter().map(show::cri_json).collect::<Vec<_>>() });
    Outcome { text, json: document }.write(json, out)?;
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

async fn find(client: &mut ImageServiceClient<Channel>, name: &str) -> anyhow::Result<Image> {
    status(client, name).await?.image.with_context(|| format!("image {name:?} not found"))
}

async fn prune(state: &Path, dry_run: bool) -> anyhow::Result<Outcome> {
    let request = PruneImagesRequest { dry_run };
    let pruned = answer(connect_admin(state).await?.prune_images(request).await)?;
    let names = show::names(&pruned.images);
    let (text, freed) = if dry_run {
        // What it would free is unknown: images share layers with each other and with what stays.
        let text = names.lines().map(|names| format!("would remove {names}\n")).collect();
        (if names.is_empty() { "would remove nothing\n".to_owned() } else { text }, None)
    } else {
        (format!("{names}{} freed\n", table::bytes(pruned.freed)), Some(pruned.freed))
    };
    let images: Vec<_> = pruned.images.iter().map(show::admin_json).collect();
    Ok(Outcome { text, json: json!({ "removed": images, "freed": freed, "dryRun": dry_run }) })
}
