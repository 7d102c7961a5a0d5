//! A registry on loopback (Debian's docker-registry) that stands for every registry that the tests name: `oci-client` pushes the
//! images, and `certs.d/HOST/hosts.toml` sends the server there, as it would for containerd.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

use crate::images::Published;
use crate::process::{Background, Program};

/// Who is answered for.
const HOSTS: [&str; 3] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"];
/// How long the registry may take to start or to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running registry; its files are below the directory that it was given.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    /// None while it is away.
    process: Option<Background>,
    dir: PathBuf,
    certs: PathBuf,
}

impl Registry {
    /// Starts one on a free port of 127.0.0.1, empty.
    pub fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = dir.join("registry.yml");
        let storage = dir.join("registry");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {storage:?}}}\n  delete: {{enabled: true}}\nhttp:\n  addr: {address}\n"
            ),
        )?;
        let certs = dir.join("certs.d");
        for host in HOSTS {
            let of = certs.join(host);
            std::fs::create_dir_all(&of)?;
            let hosts = format!(
                "server = \"http://{address}\"\n\n[host.\"http://{address}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
            );
            std::fs::write(of.join("hosts.toml"), hosts)?;
        }
        let mut registry = Self { address, process: None, dir: dir.to_owned(), certs };
        registry.start_again()?;
        Ok(registry)
    }

    /// Starts it where it was, with what it had, after it was killed.
    pub fn start_again(&mut self) -> Result<()> {
        let config = self.dir.join("registry.yml");
        let mut process = Program::new("docker-registry", ["serve".as_ref(), config.as_os_str()])
            .background(&self.dir.join("registry.log"))
            .context("docker-registry is Debian's package of that name: make deps")?;
        process.until(TIMEOUT, || TcpStream::connect(self.address).is_ok())?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it without a word.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Background::kill)
    }

    /// The directory of `HOST/hosts.toml` files that leads here.
    pub fn certs(&self) -> &Path {
        &self.certs
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pushes images with `oci-client`, a client that is not ours, and reads back what each name means.
    pub fn publish(&self, images: &[Published]) -> Result<()> {
        // It makes clients for HTTPS as well; that fails only where a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(ClientConfig {
            protocol: ClientProtocol::Http,
            use_monolithic_push: true,
            connect_timeout: Some(TIMEOUT),
            read_timeout: Some(TIMEOUT),
            ..ClientConfig::default()
        });
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for image in images {
            let pushed = tokio.block_on(self.push(&client, image));
            pushed.with_context(|| format!("cannot push {}", image.repository))?;
        }
        Ok(())
    }

    async fn push(&self, client: &Client, published: &Published) -> Result<()> {
        let (registry, repository) = (self.address.to_string(), published.repository.clone());
        let manifest = &published.image.manifest;
        let named = |tag: &&str| Reference::with_tag(registry.clone(), repository.clone(), (*tag).to_owned());
        let by_digest = Reference::with_digest(registry.clone(), repository.clone(), manifest.digest.clone());
        for blob in &published.image.blobs {
            if !client.blob_exists(&by_digest, &blob.digest).await? {
                client.push_blob(&by_digest, blob.bytes.clone(), &blob.digest).await?;
            }
        }
        let tags: Vec<_> = published.tags.iter().map(named).collect();
        for name in tags.iter().chain([&by_digest]) {
            client.push_manifest_raw(name, manifest.bytes.clone(), manifest.media_type.parse()?).await?;
            let digest = client.fetch_manifest_digest(name, &RegistryAuth::Anonymous).await?;
            ensure!(digest == manifest.digest, "{name} is {digest}, not {}", manifest.digest);
        }
        Ok(())
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        // docker-registry ends by the signal: nothing of it is worth an orderly end.
        self.kill()
    }
}
