//! What a local node is started with: the file that says who it is, and where others meet it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{LocalCluster, Node, Options, name};
use crate::http::Http;
use crate::limits;
use crate::proxy::Proxy;
use crate::target::home::Home;
use crate::target::ports;
use crate::target::shim::{Library, Shim, files};

impl LocalCluster {
    /// Starts all nodes without waiting for anything.
    pub(super) async fn spawn(options: Options) -> anyhow::Result<Self> {
        let Options { binary, nodes, dir, base_port, extra_args, proxy, shim, config, small_disk } = options;
        ensure!(
            (1..=usize::from(limits::NODES_MAX)).contains(&nodes),
            "a local cluster has 1 to {} nodes, found {nodes}",
            limits::NODES_MAX
        );
        let ports = ports::choose(base_port, nodes)?;
        let proxy = match proxy {
            Some(seed) => Some(Proxy::of_peers(seed, &[]).await?),
            None => None,
        };
        let (dir, http, nodes) = (Home::open(dir)?, Http::new(1)?, Vec::new());
        let library = if shim { Some(Library::build(dir.path())?) } else { None };
        let mut cluster =
            Self { nodes, dir, binary, extra_args, http, proxy, library, config, mounted: None };
        for ports in ports {
            cluster.push(ports).await?;
        }
        if let Some(bytes) = small_disk {
            cluster.mount_last(bytes)?;
        }
        // Only now are all doors known.
        for i in 0..cluster.len() {
            cluster.write_config(i)?;
            cluster.start_again(i)?;
        }
        Ok(cluster)
    }

    /// One node more, with an empty directory, and started.
    pub async fn add(&mut self) -> anyhow::Result<usize> {
        ensure!(
            self.len() < usize::from(limits::NODES_MAX),
            "a local cluster has {} nodes at most",
            self.len()
        );
        let ports = ports::choose(None, 1)?;
        self.push(ports[0]).await?;
        let i = self.len() - 1;
        self.write_config(i)?;
        self.start_again(i)?;
        Ok(i)
    }

    /// Gives the last node a disk in memory, so small that it can be filled.
    fn mount_last(&mut self, bytes: u64) -> anyhow::Result<()> {
        let data = self.data_dir(self.len() - 1);
        fs::create_dir_all(&data)?;
        let (kind, size) = (Some("tmpfs"), format!("size={bytes},mode=0700"));
        nix::mount::mount(kind, &data, kind, nix::mount::MsFlags::empty(), Some(size.as_str()))
            .with_context(|| format!("cannot mount a small disk on {}", data.display()))?;
        self.mounted = Some(data);
        Ok(())
    }

    async fn push(&mut self, ports: ports::Ports) -> anyhow::Result<()> {
        if let Some(proxy) = &mut self.proxy {
            proxy.add(SocketAddr::from((Ipv4Addr::LOCALHOST, ports.peer))).await?;
        }
        let home = self.dir.path().join(name(self.len()));
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        let shim = self.library.is_some().then(|| Shim::new(&home)).transpose()?;
        self.nodes.push(Node { ports, home, child: None, shim });
        Ok(())
    }

    /// Where the peers of node `i` meet it: its door, or where it listens.
    fn met_at(&self, i: usize) -> String {
        self.proxy.as_ref().map_or_else(|| self.peer(i), |proxy| proxy.door(i).to_string())
    }

    /// Writes the file of node `i` as it was at first.
    pub fn write_config(&self, i: usize) -> anyhow::Result<()> {
        let ports = &self.nodes[i].ports;
        let data = self.data_dir(i);
        let data = data.to_str().with_context(|| format!("{} is not UTF-8", data.display()))?;
        let mut text = format!(
            "http = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{}\"\ndata_dir = {}\n",
            ports.http,
            ports.peer,
            // JSON's string escapes are a subset of those of TOML.
            Value::from(data),
        );
        if self.proxy.is_some() {
            text.push_str(&format!("advertise_peer = \"{}\"\n", self.met_at(i)));
        }
        if i > 0 {
            text.push_str(&format!("seeds = [\"{}\"]\n", self.met_at(0)));
        }
        text.push_str(&self.config);
        let path = self.config(i);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Adds lines to the file of node `i`, for its next start: in front, where they belong to no table.
    pub fn configure(&self, i: usize, more: &str) -> anyhow::Result<()> {
        let path = self.config(i);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if text.contains(more) {
            return Ok(());
        }
        fs::write(&path, more.to_owned() + &text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Whatever starts from now on starts from this binary.
    pub fn run_from(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// The table files of node `i` that hold records: each names its family among its properties.
    pub fn tables_of_records(&self, i: usize) -> anyhow::Result<Vec<PathBuf>> {
        const NAME: &[u8] = b"namerecords";
        let mut found = Vec::new();
        for path in files(&self.data_dir(i))? {
            if path.extension().is_some_and(|extension| extension == "sst")
                && fs::read(&path)?.windows(NAME.len()).any(|part| part == NAME)
            {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// The log of node `i` that was written last.
    pub fn newest_log(&self, i: usize) -> anyhow::Result<Option<PathBuf>> {
        let logs = files(&self.data_dir(i))?.into_iter();
        // Their names are numbers with leading zeros.
        Ok(logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max())
    }

    /// Takes from the disk of node `i` what was never synced; it must have ended. How many bytes went.
    pub fn cut_power(&self, i: usize) -> anyhow::Result<u64> {
        let shim = self.nodes[i].shim.as_ref().context("no shim stands in front of the disk")?;
        shim.cut_power(&self.data_dir(i))
    }

    /// Removes everything that node `i` has on its disk; it must have ended. Empty, even the first node joins the others, by that one of
    /// them.
    pub fn wipe(&mut self, i: usize, by: usize) -> anyhow::Result<()> {
        ensure!(!self.is_running(i), "{} is still running", name(i));
        let data = self.data_dir(i);
        fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
        self.write_config(i)?;
        match i {
            0 if by != 0 => self.configure(0, &format!("seeds = [\"{}\"]\n", self.met_at(by))),
            _ => Ok(()),
        }
    }
}
