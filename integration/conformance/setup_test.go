package conformance

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

// Whether a test of this process has made the suite's namespaces.
var made bool

// Has the suite make its namespaces and pods, once, and puts a waypoint before them.
func setUp(t *testing.T, s *suite.ConformanceTestSuite) {
	// As Setup does it.
	s.Applier.ManifestFS = s.ManifestFS
	if made {
		return
	}
	// The suite would write over what an earlier run left, and fail when a status of it is written at the same moment.
	for _, name := range []string{suite.MeshNamespace, suite.MeshConsumerNamespace} {
		remove(t, s.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	s.Setup(t, mesh)
	useWaypoint(t, s.Client)
	made = true
}

// Deletes a namespace with all that is in it, if it is there, and waits until it is gone.
func remove(t *testing.T, c client.Client, namespace *corev1.Namespace) {
	ctx := context.Background()
	require.NoError(t, client.IgnoreNotFound(c.Delete(ctx, namespace)))
	until(t, fmt.Sprintf("the namespace %s is gone", namespace.Name), func() (bool, string) {
		err := c.Get(ctx, client.ObjectKeyFromObject(namespace), namespace)
		return errors.IsNotFound(err), fmt.Sprint(err, namespace.Status.Conditions)
	})
}
