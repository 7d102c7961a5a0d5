package resources

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"
)

func list(cpu, memory string) v1.ResourceList {
	result := v1.ResourceList{}
	if cpu != "" {
		result[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		result[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return result
}

func container(requests, limits v1.ResourceList) v1.Container {
	return v1.Container{Resources: v1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func TestCPU(t *testing.T) {
	for _, c := range []struct {
		milli  int64
		shares uint64
		quota  int64
		back   int64
	}{
		{0, 2, 0, 0}, {1, 2, 1000, 10}, {100, 102, 10000, 100}, {1000, 1024, 100000, 1000}, {2500, 2560, 250000, 2500},
		{1000000, 262144, 100000000, 1000000},
	} {
		if got := Shares(c.milli); got != c.shares {
			t.Errorf("Shares(%d) = %d", c.milli, got)
		}
		got := Quota(c.milli, QuotaPeriod)
		if got != c.quota || MilliOfQuota(got, QuotaPeriod) != c.back {
			t.Errorf("Quota(%d) = %d, back %d", c.milli, got, MilliOfQuota(got, QuotaPeriod))
		}
	}
	for milli := int64(2); milli < 5000; milli++ {
		if back := MilliOfShares(int64(Shares(milli))); back > milli || back < milli-1 {
			t.Errorf("%d milli come back as %d", milli, back)
		}
	}
	if MilliOfQuota(NoLimit, QuotaPeriod) != 0 || MilliOfQuota(1, 0) != 0 || MilliOfShares(0) != 0 {
		t.Error("no limit is 0")
	}
}

func TestOfPod(t *testing.T) {
	limited := container(nil, list("500m", "64Mi"))
	partly := container(list("100m", ""), list("", "64Mi"))
	for name, c := range map[string]struct {
		pod  v1.PodSpec
		want Limits
	}{
		"best effort": {v1.PodSpec{Containers: []v1.Container{container(nil, nil)}}, Limits{2, NoLimit, QuotaPeriod, NoLimit}},
		"all limited": {v1.PodSpec{Containers: []v1.Container{limited, limited}}, Limits{2, 100000, QuotaPeriod, 128 << 20}},
		"memory only": {v1.PodSpec{Containers: []v1.Container{limited, partly}}, Limits{102, NoLimit, QuotaPeriod, 128 << 20}},
		"one without": {
			v1.PodSpec{Containers: []v1.Container{limited, container(nil, nil)}}, Limits{2, NoLimit, QuotaPeriod, NoLimit}},
		"an init container without": {
			v1.PodSpec{InitContainers: []v1.Container{container(nil, nil)}, Containers: []v1.Container{limited}},
			Limits{2, NoLimit, QuotaPeriod, NoLimit}},
		"the pod's own": {
			v1.PodSpec{
				Resources:  &v1.ResourceRequirements{Requests: list("1", ""), Limits: list("2", "1Gi")},
				Containers: []v1.Container{container(nil, nil)}},
			Limits{1024, 200000, QuotaPeriod, 1 << 30}},
	} {
		if got := OfPod(&v1.Pod{Spec: c.pod}, true, QuotaPeriod, helper.PodResourcesOptions{}); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{limited}}}
	if got := OfPod(pod, false, QuotaPeriod, helper.PodResourcesOptions{}); got.CPUQuota != NoLimit {
		t.Errorf("cpuCFSQuota: false: %+v", got)
	}
}

func TestOfContainer(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Resources: &v1.ResourceRequirements{Limits: list("2", "1Gi")}}}
	for name, c := range map[string]struct {
		container v1.Container
		podLevel  bool
		want      Limits
	}{
		"nothing":              {container(nil, nil), false, Limits{2, 0, QuotaPeriod, 0}},
		"the pod's":            {container(nil, nil), true, Limits{2048, 200000, QuotaPeriod, 1 << 30}},
		"its own":              {container(list("250m", ""), list("1", "64Mi")), true, Limits{256, 100000, QuotaPeriod, 64 << 20}},
		"a limit is a request": {container(nil, list("1", "")), false, Limits{1024, 100000, QuotaPeriod, 0}},
		"a request of 0":       {container(list("0", ""), list("1", "")), false, Limits{2, 100000, QuotaPeriod, 0}},
	} {
		if got := OfContainer(pod, &c.container, true, QuotaPeriod, c.podLevel); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	with := container(nil, list("1", "64Mi"))
	if got := OfContainer(pod, &with, false, QuotaPeriod, false); got != (Limits{1024, 0, 0, 64 << 20}) {
		t.Errorf("cpuCFSQuota: false: %+v", got)
	}
}
