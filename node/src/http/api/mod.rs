//! stub
use crate::node::Node;
use crate::world::World;
use std::time::Duration;
/// x
pub struct Options {
    /// x
    pub boot_id: u64,
    /// x
    pub value_bytes: u64,
    /// x
    pub in_flight: usize,
    /// x
    pub request: Duration,
    /// x
    pub body: Duration,
}
/// x
pub struct Api<W: World> {
    #[allow(dead_code)]
    node: Node<W>,
}
impl<W: World> Clone for Api<W> {
    fn clone(&self) -> Self {
        Api { node: self.node.clone() }
    }
}
impl<W: World> Api<W> {
    /// x
    pub fn new(node: Node<W>, _o: Options) -> Self {
        Api { node }
    }
    /// x
    pub async fn handle(
        &self,
        _r: hyper::Request<hyper::body::Incoming>,
    ) -> hyper::Response<crate::http::body::ReplyBody> {
        hyper::Response::new(crate::http::body::ReplyBody::empty())
    }
}
