//! `cellblock image` as an administrator uses it: a pull without a terminal, archives in the forms that podman, docker and skopeo write,
//! a container of what each of them brought, and a server that is killed in the middle of an import.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::checks::Checks;
use crate::images::BUSYBOX;
use crate::process::{Background, Output, Program};
use crate::scenario::{Files, until_exited};
use crate::server::Site;
use crate::wait::until;

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs it on a server without pods; None: the server could not be started again.
pub fn run(site: &Site, server: Background, checks: &mut Checks) -> Option<Background> {
    let dir = site.dir().join("archives");
    let archive = dir.join("exported.tar");
    let exported = checks
        .check("image pull, ls, inspect", || pull(site))
        .and_then(|id| checks.check("image export, rm, import", || export(site, &id, &archive)).map(|()| id));
    let Some(id) = exported else { return Some(server) };
    checks.check("archives of podman, docker and skopeo", || of_tools(site, &id, &dir, &archive));
    checks.check("image prune", || prune(site, &id, &archive));
    let server = checks.check("a server killed in the middle of an import", || killed(site, server, &archive))?;
    checks.check("the import again", || works(site, &import(site, &archive, &[])?));
    checks.check("image rm", || remove(site, &id));
    Some(server)
}

/// Runs `cellblock image`, which must succeed.
fn image(site: &Site, args: &[&str]) -> Result<Output> {
    let program = site.cellblock(["image"].iter().chain(args).copied())?;
    let name = program.to_string();
    let output = program.output()?;
    ensure!(output.status.success(), "{name}: {}: {}{}", output.status, output.stdout, output.stderr);
    Ok(output)
}

/// The same, and parses the one JSON document that it prints.
fn image_json(site: &Site, args: &[&str]) -> Result<Value> {
    let output = image(site, &[args, &["--json"][..]].concat())?;
    ensure!(output.stderr.is_empty(), "image {args:?} --json says more than its document: {}", output.stderr);
    serde_json::from_str(&output.stdout).with_context(|| format!("image {args:?} --json: {}", output.stdout))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the site's directory is UTF-8")
}

/// Whether `cellblock image ls` and crictl list the image.
fn is_listed(site: &Site, id: &str) -> Result<bool> {
    let listed = image_json(site, &["ls"])?;
    let ours = listed["images"].as_array().context("no list")?.iter().any(|image| image["id"] == id);
    let crictls = site.run(["images", "-q", "--no-trunc"])?.lines().any(|line| line.trim() == id);
    ensure!(ours == crictls, "ls: {ours}, crictl images: {crictls}");
    Ok(ours)
}

/// Returns the image's id.
fn pull(site: &Site) -> Result<String> {
    let pulled = image(site, &["pull", BUSYBOX])?;
    for line in pulled.stderr.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let phase = ["waiting", "downloading", "unpacking", "complete"].contains(words.get(1).unwrap_or(&""));
        let digest = words[0].len() == 12 && words[0].bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(digest && phase && words.len() == 4, "a pull without a terminal says {line:?}");
    }
    ensure!(pulled.stderr.lines().any(|line| line.contains(" complete ")), "no layer is complete: {}", pulled.stderr);
    let id = pulled.stdout.lines().last().context("a pull prints the id")?.to_owned();
    ensure!(pulled.stdout == format!("{BUSYBOX}\n{id}\n") && id.starts_with("sha256:"), "{}", pulled.stdout);
    ensure!(image_json(site, &["pull", BUSYBOX])?["image"]["id"] == *id, "a second pull brings another image");
    let listed = image(site, &["ls"])?.stdout;
    let row = listed.lines().find(|line| line.contains(&id["sha256:".len()..][..13])).context("ls does not list it")?;
    ensure!(row.split_whitespace().nth(1) == Some("1.29-2"), "ls: {row}");
    let shown = image(site, &["inspect", BUSYBOX])?.stdout;
    ensure!(shown.contains(&format!("id           {id}\n")) && shown.contains("cmd          sh\n"), "inspect: {shown}");
    let shown = image_json(site, &["inspect", &id[7..19]])?;
    ensure!(shown["id"] == *id && shown["repoTags"] == json!([BUSYBOX]), "inspect --json: {shown}");
    ensure!(is_listed(site, &id)?, "it is not listed");
    Ok(id)
}

fn remove(site: &Site, id: &str) -> Result<()> {
    ensure!(image(site, &["rm", id])?.stdout == format!("{id}\n"), "rm does not print the id");
    ensure!(!is_listed(site, id)?, "a removed image is listed");
    Ok(())
}

/// Imports an archive of one image; its first name.
fn import(site: &Site, archive: &Path, more: &[&str]) -> Result<String> {
    let imported = image(site, &[&["import", text(archive)?][..], more].concat())?.stdout;
    Ok(imported.split_whitespace().next().context("an import prints names")?.to_owned())
}

fn export(site: &Site, id: &str, archive: &Path) -> Result<()> {
    fs::create_dir_all(site.dir().join("logs"))?;
    fs::create_dir_all(site.dir().join("archives"))?;
    let exported = image_json(site, &["export", BUSYBOX, "--output", text(archive)?])?;
    ensure!(exported["bytes"] == archive.metadata()?.len(), "export: {exported}");
    remove(site, id)?;
    ensure!(import(site, archive, &[])? == BUSYBOX && is_listed(site, id)?, "another image than the exported one");
    works(site, BUSYBOX)
}

/// Runs a container of an image to its end.
fn works(site: &Site, image: &str) -> Result<()> {
    let files = Files { site };
    let mut pod = files.pod_value("archives");
    pod["port_mappings"] = json!([]);
    let pod_file = files.write("pod-archives", &pod)?;
    let mut container = files.container_value("archives", image, &["sh", "-c", "echo it works"]);
    container["linux"] = json!({});
    let file = files.write("container-archives", &container)?;
    let pod = site.run(["runp", &pod_file])?.trim().to_owned();
    let ran = site.run(["create", &pod, &file, &pod_file]).and_then(|id| {
        let id = id.trim();
        site.run(["start", id])?;
        let status = until_exited(site, id)?;
        ensure!(status["exitCode"] == 0, "{status}");
        // The containers of all archives have one log.
        let logs = site.run(["logs", id])?;
        ensure!(logs.lines().last() == Some("it works"), "a container of {image} says something else: {logs}");
        Ok(())
    });
    site.run(["rmp", "-f", &pod])?;
    ran
}

/// What an image consists of.
struct Parts {
    config: Vec<u8>,
    /// Each layer, not compressed, with the digits of its digest.
    layers: Vec<(String, Vec<u8>)>,
}

/// Reads the directory of an exported archive.
fn parts(exported: &Path) -> Result<Parts> {
    let document = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let described = document(&exported.join("manifest.json"))?;
    let file = |name: &Value| Ok::<_, anyhow::Error>(exported.join(name.as_str().context("a file has a name")?));
    let config = fs::read(file(&described[0]["Config"])?)?;
    let diff_ids = serde_json::from_slice::<Value>(&config)?["rootfs"]["diff_ids"].clone();
    let mut layers = Vec::new();
    for (at, name) in described[0]["Layers"].as_array().context("no layers")?.iter().enumerate() {
        let mut plain = Vec::new();
        GzDecoder::new(File::open(file(name)?)?).read_to_end(&mut plain)?;
        let digest = diff_ids[at].as_str().and_then(|id| id.strip_prefix("sha256:"));
        layers.push((digest.context("a layer has a diff ID")?.to_owned(), plain));
    }
    Ok(Parts { config, layers })
}

/// A form of archives: writes its files into a directory, from a directory of an exported archive and its parts, under a name.
type Form = fn(&Path, &Path, &Parts, &str) -> Result<()>;

fn of_tools(site: &Site, id: &str, dir: &Path, archive: &Path) -> Result<()> {
    let exported = dir.join("exported");
    fs::create_dir_all(&exported)?;
    Program::new("tar", ["-xf", text(archive)?, "-C", text(&exported)?]).run()?;
    let parts = parts(&exported)?;
    remove(site, id)?;
    let forms: [(&str, Form); 3] = [("podman", oci_archive), ("docker", docker_save), ("skopeo", docker_archive)];
    for (tool, form) in forms {
        let (files, archive) = (dir.join(tool), dir.join(format!("{tool}.tar")));
        fs::create_dir_all(&files)?;
        let name = format!("localhost/e2e/{tool}:1");
        form(&files, &exported, &parts, &name).with_context(|| format!("the archive of {tool}"))?;
        Program::new("tar", ["-cf", text(&archive)?, "-C", text(&files)?, "."]).run()?;
        let imported = import(site, &archive, &[]).with_context(|| format!("an archive of {tool}"))?;
        ensure!(imported == name && is_listed(site, id)?, "an archive of {tool} brought {imported}");
        works(site, &name)?;
        let named = image_json(site, &["import", text(&archive)?, "--name", "localhost/e2e/own:2"])?;
        let tags = named["images"][0]["repoTags"].as_array().context("no tags")?;
        ensure!(tags.contains(&json!("localhost/e2e/own:2")), "import --name: {named}");
        remove(site, id)?;
    }
    Ok(())
}

/// As `podman save --format oci-archive`: an OCI image layout, whose index names the image.
fn oci_archive(to: &Path, exported: &Path, _: &Parts, name: &str) -> Result<()> {
    Program::new("cp", ["-R", text(&exported.join("blobs"))?, text(to)?]).run()?;
    fs::copy(exported.join("oci-layout"), to.join("oci-layout"))?;
    let mut index: Value = serde_json::from_slice(&fs::read(exported.join("index.json"))?)?;
    index["manifests"][0]["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    Ok(fs::write(to.join("index.json"), index.to_string())?)
}

/// As `docker save` wrote before its release 25: a directory for each layer.
fn docker_save(to: &Path, _: &Path, parts: &Parts, name: &str) -> Result<()> {
    let mut layers = Vec::new();
    for (digest, bytes) in &parts.layers {
        fs::create_dir_all(to.join(digest))?;
        fs::write(to.join(digest).join("VERSION"), "1.0")?;
        fs::write(to.join(digest).join("json"), json!({ "id": digest }).to_string())?;
        fs::write(to.join(digest).join("layer.tar"), bytes)?;
        layers.push(format!("{digest}/layer.tar"));
    }
    describe(to, parts, name, &layers)
}

/// As `skopeo copy … docker-archive:` and `podman save` write: layers by their digests, and links to them where docker had them.
fn docker_archive(to: &Path, _: &Path, parts: &Parts, name: &str) -> Result<()> {
    let mut layers = Vec::new();
    for (digest, bytes) in &parts.layers {
        fs::write(to.join(format!("{digest}.tar")), bytes)?;
        fs::create_dir_all(to.join(digest))?;
        std::os::unix::fs::symlink(format!("../{digest}.tar"), to.join(digest).join("layer.tar"))?;
        layers.push(format!("{digest}.tar"));
    }
    describe(to, parts, name, &layers)
}

/// The files of a docker archive that describe it.
fn describe(to: &Path, parts: &Parts, name: &str, layers: &[String]) -> Result<()> {
    let (repository, tag) = name.rsplit_once(':').context("a name has a tag")?;
    let top = parts.layers.last().map(|(digest, _)| digest);
    fs::write(to.join("config.json"), &parts.config)?;
    fs::write(to.join("repositories"), json!({ repository: { tag: top } }).to_string())?;
    let described = json!([{"Config": "config.json", "RepoTags": [name], "Layers": layers}]);
    Ok(fs::write(to.join("manifest.json"), described.to_string())?)
}

/// A prune keeps the image of a container, and takes it when the container is gone.
fn prune(site: &Site, id: &str, archive: &Path) -> Result<()> {
    import(site, archive, &[])?;
    let files = Files { site };
    let mut pod = files.pod_value("archives");
    pod["port_mappings"] = json!([]);
    let pod_file = files.write("pod-archives", &pod)?;
    let mut container = files.container_value("archives", BUSYBOX, &["sh"]);
    container["linux"] = json!({});
    let file = files.write("container-archives", &container)?;
    let pod = site.run(["runp", &pod_file])?.trim().to_owned();
    site.run(["create", &pod, &file, &pod_file])?;
    image(site, &["prune"])?;
    ensure!(is_listed(site, id)?, "a prune removed the image of a container");
    site.run(["rmp", "-f", &pod])?;
    let would = image_json(site, &["prune", "--dry-run"])?;
    ensure!(would["removed"][0]["id"] == *id && is_listed(site, id)?, "prune --dry-run: {would}");
    let said = image(site, &["prune"])?.stdout;
    ensure!(said.contains(BUSYBOX) && said.ends_with(" freed\n") && !is_listed(site, id)?, "prune: {said}");
    Ok(())
}

/// The names in a directory.
fn names(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut names: Vec<PathBuf> = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Kills the server while half of an archive has been sent; the next one has nothing of it.
fn killed(site: &Site, server: Background, archive: &Path) -> Result<Background> {
    let store = site.dir().join("root/images");
    let (importing, blobs) = (store.join("import"), store.join("blobs/sha256"));
    let before = names(&blobs)?;
    let pipe = site.dir().join("archives/pipe");
    Program::new("mkfifo", [text(&pipe)?]).run()?;
    let mut client = site.cellblock(["image", "import", text(&pipe)?])?.background(&site.dir().join("import.log"))?;
    // Opened for both, it waits for no reader; held open, it does not end.
    let mut sink = File::options().read(true).write(true).open(&pipe)?;
    let held = sink.try_clone()?;
    let bytes = fs::read(archive)?;
    // On a thread: without a reader it would wait for ever.
    let writer = std::thread::spawn(move || sink.write_all(&bytes[..bytes.len() / 2]));
    until(PATIENCE, || {
        client.check()?;
        // Until then what is written may be a small blob, which is stored in a moment.
        ensure!(writer.is_finished(), "half of the archive is not taken yet");
        let begun = names(&importing)?;
        let written = begun.iter().any(|path| path.metadata().is_ok_and(|metadata| metadata.len() > 0));
        ensure!(written, "nothing of the archive is stored: {begun:?}");
        Ok(())
    })?;
    server.kill()?;
    ensure!(!client.ended(PATIENCE)?.success(), "an import of half an archive succeeded");
    drop(held);
    ensure!(!names(&importing)?.is_empty(), "the server was killed too late");
    let server = site.serve()?;
    ensure!(names(&importing)?.is_empty(), "left of the import: {:?}", names(&importing)?);
    ensure!(names(&blobs)? == before, "blobs of the import stay: {:?}", names(&blobs)?);
    Ok(server)
}
