package lab

import (
	"slices"
	"testing"
)

// The nodes fill the subnets in their order, and no subnet has two more than another.
func TestSubnetOf(t *testing.T) {
	for _, c := range []struct {
		subnets int
		want    []int
	}{
		{1, []int{1, 1, 1}},
		{2, []int{1}},
		{2, []int{1, 2}},
		{2, []int{1, 1, 2}},
		{2, []int{1, 1, 2, 2}},
		{2, []int{1, 1, 1, 2, 2}},
	} {
		var got []int
		for i := range c.want {
			got = append(got, subnetOf(i, len(c.want), c.subnets))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d nodes in %d subnets: %v, want %v", len(c.want), c.subnets, got, c.want)
		}
	}
}
