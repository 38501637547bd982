// What stands in front of an op's function: `Op` objects, which pass a call on to the function, or to the tracer of
// this thread if there is one; or straight to the kernels (bindings/direct.h). They take part in every eager op, and
// doing this in Python cost 0.3 us of about 1.5.
#include <Python.h>
#include <structmember.h>

#include <cstddef>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/direct.h"

namespace quernel {
namespace {

thread_local PyObject* t_tracer = nullptr;  // owned; null while ops compute

struct OpObject {
  PyObject_HEAD;
  vectorcallfunc call;
  PyObject *function, *traced, *refused;  // `refused` names the op in errors of class `refusal`
  PyObject* refusal;
  PyObject* dict;
  const Direct* direct;  // null: always through the function
};

OpObject* as_op(PyObject* self) { return reinterpret_cast<OpObject*>(self); }

// traced(tracer, args, kwargs)
PyObject* call_traced(const OpObject* op, PyObject* const* args, size_t count, PyObject* names) {
  try {  // no exception may pass through Python's frames
    py::tuple positional(count);
    for (size_t i = 0; i < count; ++i) positional[i] = py::reinterpret_borrow<py::object>(args[i]);
    py::dict keywords;
    const Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    for (Py_ssize_t i = 0; i < named; ++i)
      keywords[PyTuple_GET_ITEM(names, i)] = py::reinterpret_borrow<py::object>(args[count + static_cast<size_t>(i)]);
    return PyObject_CallFunctionObjArgs(op->traced, t_tracer, positional.ptr(), keywords.ptr(), nullptr);
  } catch (py::error_already_set& error) {
    error.restore();
    return nullptr;
  }
}

PyObject* call(PyObject* self, PyObject* const* args, size_t flags, PyObject* names) {
  const OpObject* op = as_op(self);
  if (op->direct && !t_tracer && !names && PyVectorcall_NARGS(flags) == op->direct->operands) {
    PyObject* result = call_direct(*op->direct, args);
    if (result != nullptr || PyErr_Occurred()) return result;
  }
  PyObject* result = t_tracer == nullptr ? PyObject_Vectorcall(op->function, args, flags, names)
                                         : call_traced(op, args, PyVectorcall_NARGS(flags), names);
  if (result != nullptr || !PyErr_ExceptionMatches(op->refusal)) [[likely]]
    return result;
  PyObject *kind, *error, *trace;
  PyErr_Fetch(&kind, &error, &trace);
  PyErr_NormalizeException(&kind, &error, &trace);
  result = PyObject_CallOneArg(op->refused, error);
  Py_XDECREF(kind);
  Py_XDECREF(error);
  Py_XDECREF(trace);
  return result;
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  const OpObject* op = as_op(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(op->function);
  Py_VISIT(op->traced);
  Py_VISIT(op->refused);
  Py_VISIT(op->refusal);
  Py_VISIT(op->dict);
  return 0;
}

int clear(PyObject* self) {
  OpObject* op = as_op(self);
  Py_CLEAR(op->function);
  Py_CLEAR(op->traced);
  Py_CLEAR(op->refused);
  Py_CLEAR(op->refusal);
  Py_CLEAR(op->dict);
  return 0;
}

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  clear(self);
  type->tp_free(self);
  Py_DECREF(type);
}

// As a function does: an op in a class is a method, and a routine to help() and doctest.
PyObject* bind(PyObject* self, PyObject* object, PyObject*) {
  return object == nullptr || object == Py_None ? Py_NewRef(self) : PyMethod_New(self, object);
}

// Pickled and copied by its name.
PyObject* reduce(PyObject* self, PyObject*) { return PyObject_GetAttrString(self, "__qualname__"); }

py::object make_type() {
  static PyMemberDef members[] = {
      {"__vectorcalloffset__", T_PYSSIZET, offsetof(OpObject, call), READONLY, nullptr},
      {"__dictoffset__", T_PYSSIZET, offsetof(OpObject, dict), READONLY, nullptr},
      {nullptr, 0, 0, 0, nullptr},
  };
  static PyMethodDef methods[] = {{"__reduce__", reduce, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
  static PyGetSetDef getset[] = {{"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, nullptr, nullptr},
                                 {nullptr, nullptr, nullptr, nullptr, nullptr}};
  static PyType_Slot slots[] = {
      {Py_tp_members, members},
      {Py_tp_methods, methods},
      {Py_tp_getset, getset},
      {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
      {Py_tp_descr_get, reinterpret_cast<void*>(bind)},
      {Py_tp_traverse, reinterpret_cast<void*>(traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(clear)},
      {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
      {0, nullptr},
  };
  static PyType_Spec spec{
      "quernel._core.OpCall", sizeof(OpObject), 0,
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  return py::reinterpret_steal<py::object>(PyType_FromSpec(&spec));
}

}  // namespace

void register_op(py::module_& m) {
  static PyTypeObject* type = reinterpret_cast<PyTypeObject*>(make_type().release().ptr());
  m.def(
      "op_call",
      [](const py::function& function, const py::function& traced, const py::function& refused, const py::type& refusal,
         const std::string& direct) {
        auto self = py::reinterpret_steal<py::object>(type->tp_alloc(type, 0));
        if (!self) throw py::error_already_set();
        OpObject* op = as_op(self.ptr());
        op->call = call;
        op->function = function.inc_ref().ptr();
        op->traced = traced.inc_ref().ptr();
        op->refused = refused.inc_ref().ptr();
        op->refusal = refusal.inc_ref().ptr();
        op->direct = direct.empty() ? nullptr : find_direct(direct);
        if (!direct.empty() && !op->direct) throw py::key_error(direct);
        return self;
      },
      py::arg("function"), py::arg("traced"), py::arg("refused"), py::arg("refusal"), py::arg("direct"),
      "A function that calls `function`, or traced(tracer, args, kwargs) while this thread has a tracer; errors of "
      "class `refusal` go to refused(error), which raises. Calls with tensors alone, none of which needs a gradient, "
      "compute "
      "what `direct` names, if it is not empty, and call nothing.");
  m.def(
      "current_tracer", [] { return py::reinterpret_borrow<py::object>(t_tracer ? t_tracer : Py_None); },
      "What set_tracer() has set, or None.");
  m.def(
      "set_tracer",
      [](const py::object& tracer) {
        PyObject* before = std::exchange(t_tracer, tracer.is_none() ? nullptr : tracer.inc_ref().ptr());
        return before ? py::reinterpret_steal<py::object>(before) : py::object(py::none());
      },
      py::arg("tracer").none(),
      "Sends this thread's calls of ops to a tracer (None: computes again); returns the one before.");
}

}  // namespace quernel
