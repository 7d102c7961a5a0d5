//! ListMetricDescriptors: describes the metrics of ListPodSandboxMetrics.

use proto::v1::{ListMetricDescriptorsRequest, ListMetricDescriptorsResponse, MetricDescriptor};

use super::metrics::{CONTAINER, Descriptor, POD};
use crate::error::Error;

pub(crate) fn call(_request: ListMetricDescriptorsRequest) -> Result<ListMetricDescriptorsResponse, Error> {
    let descriptors = CONTAINER.iter().map(describe).chain(POD.iter().map(describe)).collect();
    Ok(ListMetricDescriptorsResponse { descriptors })
}

fn describe<T>(metric: &Descriptor<T>) -> MetricDescriptor {
    MetricDescriptor { name: metric.name.to_owned(), help: metric.help.to_owned(), label_keys: metric.labels() }
}
