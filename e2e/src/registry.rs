//! A registry on loopback (Debian's docker-registry) that stands for every registry that the tests name: `oci-client` pushes the
//! images, and `certs.d/HOST/hosts.toml` sends the server there, as it would for containerd.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

use crate::images::Published;
use crate::ports::free_port;
use crate::process::{Background, Program};

/// The registries that it stands for.
const HOSTS: [&str; 3] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"];
/// The time-out of the start and of each response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A registry and its files.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    /// None while it is down.
    process: Option<Background>,
    dir: PathBuf,
    certs: PathBuf,
}

impl Registry {
    /// Starts an empty one on a free port of 127.0.0.1.
    pub fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
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
        registry.restart()?;
        Ok(registry)
    }

    /// Restarts a killed one with the same address and contents.
    pub fn restart(&mut self) -> Result<()> {
        let config = self.dir.join("registry.yml");
        let mut process = Program::new("docker-registry", ["serve".as_ref(), config.as_os_str()])
            .background(&self.dir.join("registry.log"))
            .context("docker-registry is Debian's package of that name: make deps")?;
        process.until(TIMEOUT, || TcpStream::connect(self.address).is_ok())?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Background::kill)
    }

    /// The directory of its contents.
    pub fn storage(&self) -> PathBuf {
        self.dir.join("registry")
    }

    /// The directory of its `HOST/hosts.toml` files.
    pub fn certs(&self) -> &Path {
        &self.certs
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pushes images with `oci-client`, an independent client, and reads back the digest of each name.
    pub fn publish(&self, images: &[Published]) -> Result<()> {
        // oci-client needs a TLS provider even for HTTP; this fails only if there is one already.
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

    /// Stops it.
    pub fn stop(mut self) -> Result<()> {
        // docker-registry has no state to save.
        self.kill()
    }
}
