package conformance

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

// Waits until every HTTPRoute of the suite's namespace says of each of its parents that it holds there: one entry for each, which repeats
// the reference as it was written, with conditions about what is written now.
func routesSayThatTheyHold(t *testing.T, s *suite.ConformanceTestSuite) {
	until(t, "the routes say that they hold", func() (bool, string) {
		routes := &gatewayv1.HTTPRouteList{}
		if err := s.Client.List(context.Background(), routes, client.InNamespace(suite.MeshNamespace)); err != nil {
			return false, err.Error()
		}
		for _, route := range routes.Items {
			if wrong := wrongIn(&route); route.DeletionTimestamp == nil && wrong != "" {
				return false, fmt.Sprintf("%s: %s", route.Name, wrong)
			}
		}
		return len(routes.Items) > 0, "there is no route"
	})
}

// What is wrong with the status of a route that should hold; empty for nothing.
func wrongIn(route *gatewayv1.HTTPRoute) string {
	if len(route.Status.Parents) != len(route.Spec.ParentRefs) {
		return fmt.Sprintf("%d entries for %d parents", len(route.Status.Parents), len(route.Spec.ParentRefs))
	}
	for at, entry := range route.Status.Parents {
		if !reflect.DeepEqual(entry.ParentRef, route.Spec.ParentRefs[at]) {
			return fmt.Sprintf("the entry for %v is about %v", route.Spec.ParentRefs[at], entry.ParentRef)
		}
		for _, name := range []gatewayv1.RouteConditionType{gatewayv1.RouteConditionAccepted, gatewayv1.RouteConditionResolvedRefs} {
			condition := meta.FindStatusCondition(entry.Conditions, string(name))
			if condition == nil || condition.Status != "True" || condition.ObservedGeneration != route.Generation {
				return fmt.Sprintf("%s of generation %d is %v", name, route.Generation, condition)
			}
		}
		if condition := meta.FindStatusCondition(entry.Conditions, string(gatewayv1.RouteConditionPartiallyInvalid)); condition != nil {
			return fmt.Sprintf("a route without fault has %v", condition)
		}
	}
	return ""
}

func TestAStatusAboutAnotherGenerationIsSeen(t *testing.T) {
	route := &gatewayv1.HTTPRoute{}
	require.Empty(t, wrongIn(route))
	route.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: "echo"}}
	require.NotEmpty(t, wrongIn(route))
	route.Status.Parents = []gatewayv1.RouteParentStatus{{ParentRef: gatewayv1.ParentReference{Name: "echo"}}}
	require.NotEmpty(t, wrongIn(route))
	for _, name := range []gatewayv1.RouteConditionType{gatewayv1.RouteConditionAccepted, gatewayv1.RouteConditionResolvedRefs} {
		meta.SetStatusCondition(&route.Status.Parents[0].Conditions, metav1.Condition{
			Type: string(name), Status: metav1.ConditionTrue, Reason: "Good", ObservedGeneration: route.Generation,
		})
	}
	require.Empty(t, wrongIn(route))
	route.Generation++
	require.NotEmpty(t, wrongIn(route))
}
