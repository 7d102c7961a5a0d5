//! ListMetricDescriptors: describes the metrics of ListPodSandboxMetrics.

use proto::v1::{ListMetricDescriptorsRequest, ListMetricDescriptorsResponse, MetricDescriptor};

use super::list_pod_sandbox_metrics::{CONTAINER_METRICS, Descriptor, POD_METRICS};
use crate::error::Error;

pub(crate) fn call(_request: ListMetricDescriptorsRequest) -> Result<ListMetricDescriptorsResponse, Error> {
    let descriptor = |metric: &Descriptor| MetricDescriptor {
        name: metric.name.to_owned(),
        help: metric.help.to_owned(),
        label_keys: metric.labels.iter().map(|label| (*label).to_owned()).collect(),
    };
    let descriptors = CONTAINER_METRICS.iter().chain(POD_METRICS).map(descriptor).collect();
    Ok(ListMetricDescriptorsResponse { descriptors })
}
