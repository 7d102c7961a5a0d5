package freebsd

import (
	"sync"
	"time"
)

// Kept is the last answer to a question that many ask and that is dear to answer. One question is on its way at a time. Who waits
// for it takes its answer only if it was asked late enough, so that of any number that ask at once two are asked at most.
type Kept[T any] struct {
	mutex sync.Mutex
	value T
	asked time.Time
}

// Get returns the answer to a question not older than age. When the question fails it returns an older answer, up to stale.
func (k *Kept[T]) Get(age, stale time.Duration, ask func() (T, error)) (T, error) {
	oldest := time.Now().Add(-age)
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if k.asked.After(oldest) {
		return k.value, nil
	}
	asked := time.Now()
	value, err := ask()
	if err != nil && asked.Sub(k.asked) <= stale {
		return k.value, nil
	}
	if err == nil {
		k.value, k.asked = value, asked
	}
	return value, err
}
