//go:build freebsd

// In-place resize of pods, which upstream refuses on other systems than Linux. Rests on the runtime: UpdateContainerResources
// changes the limits of a jail (rctl(8)) and of what watches its memory while it runs.
//
//overlay:replaces features_unsupported.go

package allocation

import (
	v1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/features"
)

// IsInPlacePodVerticalScalingAllowed says whether a container's resources may change while it runs.
func IsInPlacePodVerticalScalingAllowed(_ *v1.Pod) (allowed bool, msg, reason string) {
	if !utilfeature.DefaultFeatureGate.Enabled(features.InPlacePodVerticalScaling) {
		return false, "InPlacePodVerticalScaling is disabled", "feature_gate_off"
	}
	return true, "", ""
}

// IsInPlacePodLevelResourcesVerticalScalingAllowed says the same of a pod's own resources.
func IsInPlacePodLevelResourcesVerticalScalingAllowed(_ *v1.Pod) (allowed bool, msg, reason string) {
	if !utilfeature.DefaultFeatureGate.Enabled(features.InPlacePodLevelResourcesVerticalScaling) {
		return false, "InPlacePodLevelResourcesVerticalScaling is disabled", "plr_feature_gate_off"
	}
	return true, "", ""
}
