//go:build freebsd

// Resources of a pod as a whole, which upstream's admission refuses on other systems than Linux. Rests on the runtime, which
// gets them with the sandbox (overlay of kuberuntime) and holds its containers to them together.
//
//overlay:replaces features_unsupported.go

package lifecycle

import (
	v1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/features"
)

func isPodLevelResourcesSupported(pod *v1.Pod) PodAdmitResult {
	if resource.IsPodLevelResourcesSet(pod) && !utilfeature.DefaultFeatureGate.Enabled(features.PodLevelResources) {
		return PodAdmitResult{
			Admit:   false,
			Reason:  PodLevelResourcesNotAdmittedReason,
			Message: "PodLevelResources feature gate is disabled",
		}
	}
	return PodAdmitResult{Admit: true}
}
