//! Not here yet.

use super::{Answer, Api};
use crate::http::path::Route;
use crate::http::problem::{Ctx, Problem};
use crate::world::World;
use http::Request;

/// Answers that there is no such route.
pub(super) async fn handle<W: World, B>(
    _api: &Api<W>,
    _ctx: &Ctx,
    _route: Route<'_>,
    _req: Request<B>,
) -> Answer {
    Err(Problem::no_route())
}
