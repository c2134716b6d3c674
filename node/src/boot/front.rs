//! The port for clients: open from the first moment, before there is a node that could answer.
//!
//! A node may wait long, for seeds that start later or for somebody who lets it in. Whoever looks after it must learn that from
//! the node and not from a connection that is taken and never answered: it is alive, not ready, and says why.

use super::{BootError, Identity};
use crate::config::Config;
use crate::http::api::{Api, Options, waiting};
use crate::http::listen;
use crate::http::problem::Scope;
use crate::limits::DRAIN_MAX;
use crate::node::Node;
use crate::world::World;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The open port.
pub(super) struct Front<W: World> {
    /// For what the node waits, in words.
    pub(super) waits: watch::Sender<String>,
    scope: Arc<Scope>,
    api: Arc<OnceLock<Api<W>>>,
    serving: JoinHandle<usize>,
    stop: watch::Sender<bool>,
}

impl<W: World> Front<W> {
    /// Answers from now on, if only that there is no node yet.
    pub(super) fn open(
        identity: &Identity,
        config: &Config,
        boot_id: u64,
        listener: W::Listener,
    ) -> Front<W> {
        let bounds = listen::Bounds {
            head: config.timeouts.header,
            idle: config.timeouts.idle,
            head_bytes: config.limits.header_bytes,
            connections: config.limits.connections,
            drain: DRAIN_MAX,
        };
        let (waits, waits_for) = watch::channel("this node has just started".to_owned());
        let (stop, stopping) = watch::channel(false);
        let scope = Scope::new(identity.node.to_string(), boot_id);
        let api: Arc<OnceLock<Api<W>>> = Arc::default();
        let handler = {
            let (api, scope) = (Arc::clone(&api), Arc::clone(&scope));
            move |request| {
                let (api, scope, waits_for) = (Arc::clone(&api), Arc::clone(&scope), waits_for.clone());
                async move {
                    match api.get() {
                        Some(api) => api.handle(request).await,
                        None => waiting::answer(&scope, &request, &waits_for.borrow()),
                    }
                }
            }
        };
        let serving =
            tokio::spawn(listen::serve(listener, bounds, stopping, Some(Arc::clone(&scope)), handler));
        Front { waits, scope, api, serving, stop }
    }

    /// Serves clients until the shutdown, and drains; or until the disk fails, and leaves at once.
    pub(super) async fn serve(
        mut self,
        node: &Node<W>,
        config: &Config,
        mut shutdown: watch::Receiver<bool>,
        mut failure: watch::Receiver<Option<String>>,
    ) -> Result<(), BootError> {
        let options = Options {
            value_bytes: config.limits.value_bytes,
            in_flight: config.limits.in_flight,
            request: config.timeouts.request,
            body: config.timeouts.body,
        };
        let api = Api::new(node.clone(), options, Arc::clone(&self.scope));
        assert!(self.api.set(api).is_ok(), "a node is put in once");
        tokio::select! {
            biased;
            failed = failure.wait_for(Option::is_some) => {
                // Nobody knows what the failed sync left behind: the lane takes nothing more, and there is no flush.
                let why = failed.ok().and_then(|why| why.clone());
                return Err(BootError::Failed(why.unwrap_or_default()));
            }
            _ = shutdown.wait_for(|stop| *stop) => {}
            _ = &mut self.serving => return Ok(()),
        }
        node.draining.store(true, Ordering::Relaxed);
        let _ = self.stop.send(true);
        let _ = self.serving.await;
        Ok(())
    }
}
