//! The handlers.

mod buckets;
mod cart_body;
mod cart_view;
mod carts;
mod cluster;
mod directory;
mod failure;
mod health;
mod metrics_text;
mod reply;

use crate::http::body::ReplyBody;
use crate::http::path::{Route, route};
use crate::http::problem::{Ctx, Problem, Scope};
use crate::node::Node;
use crate::world::World;
use http::{Request, Response};
use hyper::body::Incoming;
use ring::time::Time;
use std::sync::Arc;
use std::time::Duration;

/// What handlers stand on.
pub struct Api<W: World> {
    node: Node<W>,
    scope: Arc<Scope>,
    timeout: Duration,
    started: Time,
}

/// The bounds of handlers.
pub struct Options {
    /// Of this start.
    pub boot_id: u64,
    /// The largest value.
    pub value_bytes: u64,
    /// Requests at once.
    pub in_flight: usize,
    /// How long a request may take.
    pub request: Duration,
    /// How long a body may take.
    pub body: Duration,
}

impl<W: World> Clone for Api<W> {
    fn clone(&self) -> Self {
        Api { node: self.node.clone(), scope: self.scope.clone(), timeout: self.timeout, started: self.started }
    }
}

impl<W: World> Api<W> {
    /// Puts it together.
    pub fn new(node: Node<W>, options: Options) -> Self {
        let scope = Scope::new(node.id().to_string(), options.boot_id);
        let started = node.now();
        Api { node, scope, timeout: options.request, started }
    }

    /// Answers a request.
    pub async fn handle(&self, req: Request<Incoming>) -> Response<ReplyBody> {
        let ctx = self.scope.ctx(req.headers());
        let uri = req.uri().clone();
        let answer = match route(uri.path()) {
            Ok(route) => self.dispatch(&ctx, route, req).await,
            Err(problem) => Err(problem),
        };
        answer.unwrap_or_else(|problem| problem.respond(&ctx))
    }

    async fn dispatch(
        &self,
        ctx: &Ctx,
        route: Route<'_>,
        req: Request<Incoming>,
    ) -> Result<Response<ReplyBody>, Problem> {
        route.check_method(req.method())?;
        match route {
            Route::Object { .. }
            | Route::ObjectUpdate { .. }
            | Route::Keys { .. }
            | Route::Batch { .. }
            | Route::Watch { .. } => Err(Problem::no_route()),
            Route::Buckets | Route::Bucket { .. } => buckets::handle(self, ctx, route, req).await,
            Route::Cart { .. }
            | Route::CartItems { .. }
            | Route::CartItem { .. }
            | Route::CartMerge { .. } => carts::handle(self, ctx, route, req).await,
            _ => cluster::handle(self, ctx, route, req).await,
        }
    }
}
